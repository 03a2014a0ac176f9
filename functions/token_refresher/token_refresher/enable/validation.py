"""Untrusted bytes become records here, by pydantic over the layer's own dataclasses.

pydantic's own messages quote what was sent, which may be the client secret or a token; only
the place and the kind of each fault are taken from them.
"""

from pydantic import TypeAdapter, ValidationError


def validate_json[Record](adapter: TypeAdapter[Record], data: bytes | str) -> Record:
    """Parse JSON into a record; no value is converted from one type to another.

    A byte order mark before the JSON is ignored (RFC 8259 section 8.1).

    Raises:
        ValueError: the message names each faulty field and what is wrong with it, and
            quotes nothing.
    """
    mark = "\ufeff"
    data = data.removeprefix(mark) if isinstance(data, str) else data.removeprefix(mark.encode())
    try:
        return adapter.validate_json(data, strict=True)
    except ValidationError as error:
        faults = fault_texts(error)
    # Raised out here, so that neither cause nor context contains pydantic's error and its input.
    raise ValueError("; ".join(faults))


def fault_texts(error: ValidationError) -> list[str]:
    """The faults of an error, each with its place, without the values that caused them."""
    faults = error.errors(include_input=False, include_url=False, include_context=False)
    return [_fault_text(fault["loc"], fault["type"], fault["msg"]) for fault in faults]


def _fault_text(place: tuple[int | str, ...], kind: str, message: str) -> str:
    """One fault; the parser's own messages quote the input, so they are replaced."""
    text = "not valid JSON" if kind == "json_invalid" else message.removeprefix("Value error, ")
    return ": ".join(filter(None, [".".join(map(str, place)), text]))
