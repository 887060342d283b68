"""What people hear: studies chosen from a run, the page on which listeners rate it, and what their answers say.

`planning` chooses samples and levels their sounds, `study` is the plan, `answers` keeps what listeners say, `server` is
the page, `analysis` the statistics, `webmushra` the way to and from another tool. All of a study lies in
`RUN_DIR/listening`.
"""
