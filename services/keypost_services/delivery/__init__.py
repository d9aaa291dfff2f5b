"""The delivery service: stores sealed messages and hands them to their recipients' devices."""
