"""What people hear: studies chosen from a run, the page on which listeners rate it, and what their answers say.

`settings` are a study's, over what its task says; `planning` chooses samples, `sounds` levels what is heard of them,
`study` is the plan, `answers` keeps what listeners say, `server` is the page, `webmushra` the way to and from another
tool. `analysis` leaves out whom the rules of `exclusions` name, makes the tables of `findings` and `predictors` by
`statistics`, and has `analysis_report` tell them beside `analysis_figures`. All of a study lies in `RUN_DIR/listening`.
"""
