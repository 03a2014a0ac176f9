"""Programs that a maintainer runs against what is deployed."""
