"""Tests against a real CRIU, in a virtual machine: see tools/vm."""
