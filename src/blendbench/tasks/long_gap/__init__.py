"""The long-gap task: a stretch of some seconds is missing in a recording, and a method fills it."""
