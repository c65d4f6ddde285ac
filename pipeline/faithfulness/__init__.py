"""How faithful attribution is on a user's own data: retrainings on random subsets, and methods judged by them."""
