"""What the broker costs in time, memory and requests, measured side by side with floors and peers."""
