"""Tests on the real kernel, each in IPC namespaces of its own. They need root."""
