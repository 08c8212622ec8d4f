"""The AU motion prior: displacement fields per action unit, carried to any face by its landmarks."""
