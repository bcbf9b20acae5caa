"""Generated from proto/ by tools/generate_pb.py; not to be edited."""
