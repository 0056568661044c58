"""What users created and a projection of what workers did. All SQL of T2M lives here, one module per aggregate."""
