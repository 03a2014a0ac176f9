"""What runs on this machine only: the embedded cloud, the stand-in for Enable, the demo."""
