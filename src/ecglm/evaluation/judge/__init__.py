"""Language models as judges: rubrics, scoring and preferences that are paid once, and agreement with people."""
