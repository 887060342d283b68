"""The long-form task (Msanii): music of any length from nothing, or from one or two recordings."""
