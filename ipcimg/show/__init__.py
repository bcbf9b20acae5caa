"""The inspector: images → model → text, JSON or a page to look at. No kernel anywhere.

command takes the arguments; source finds what they name, and gives it as a subject; summary, table, full, message and
contents are the views of it; columns and view say what there is to show and how values look.
"""
