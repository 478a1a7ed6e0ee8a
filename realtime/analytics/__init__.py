"""What reads logs and makes something of them: rules, alerts, predictors."""
