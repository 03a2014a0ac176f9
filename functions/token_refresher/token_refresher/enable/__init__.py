"""All that knows Enable's token endpoint: the request, its deadline, what counts as a token."""
