"""What the broker costs in time, memory and requests, side by side with floors and peers."""
