"""The contenders, one file each. All but pgqueue run in environments of their own, without pgqueue."""
