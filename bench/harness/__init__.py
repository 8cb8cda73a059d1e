"""What every scenario needs: processes, orders, meters, checks. Imported by everything else in bench."""
