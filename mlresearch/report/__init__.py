"""A run or a study as one page of HTML, which holds all that it shows and fetches nothing."""
