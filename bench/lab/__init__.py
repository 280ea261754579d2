"""What every measurement needs: services, lines, the machine, arithmetic."""
