"""What people hear: studies chosen from a run, the page on which listeners rate it, and what their answers say.

`planning` chooses samples and levels their sounds, `study` is the plan, `answers` keeps what listeners say, `server` is
the page, `webmushra` the way to and from another tool. `analysis` leaves out whom the rules of `exclusions` name, makes
the tables of `findings` by `statistics`, and has `analysis_report` tell them. All of a study lies in
`RUN_DIR/listening`.
"""
