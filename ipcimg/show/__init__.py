"""The inspector: images → model → text, JSON or a page to look at. No kernel anywhere.

arguments says what can be asked for, and command makes a request of it; source finds what the arguments name, and gives
it as subjects; answer chooses the view of them: summary, table, full, message, contents, lines or report. columns and
view say what there is to show, and how values look.
"""
