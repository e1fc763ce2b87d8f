"""What runs inside sandboxes, bound there as files: standard library only, no other part of us.

wire        plain values as frames over two pipes
startup     descriptors, limits and the job, before anything untrusted runs
candidate   runs the program under test and hands out plain values
examiner    runs the tests, with the candidate at the far end of the pipes
"""
