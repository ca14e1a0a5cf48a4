"""Update and delete: passed on to the element that holds the file, or remembered until that is back."""
