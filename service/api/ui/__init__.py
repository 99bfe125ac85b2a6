"""The pages for people: templates, one style sheet, no script, nothing from elsewhere."""
