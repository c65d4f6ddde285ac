"""Sources of wrong labels: values of columns that say where a row comes from."""
