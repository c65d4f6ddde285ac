"""Who made the wrong labels: values of columns that say where a row comes from."""
