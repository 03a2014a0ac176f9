"""What runs on this machine only: the embedded cloud, the fake Enable, the demo."""
