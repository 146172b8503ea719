"""`vla-ros demo`: the whole loop in a simulated cell, on one terminal page and in one folder."""
