"""What `make bench` measures: each figure beside its limit, in one run on one machine."""
