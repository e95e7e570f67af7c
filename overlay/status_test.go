package overlay

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTextOfManyRepairs(t *testing.T) {
	t.Parallel()
	require.Contains(t, Status{Repairs: RepairStatus{Total: 22, Recent: make([]Repair, 20)}}.Text(), "\nrepairs    22, the last 20:\n")
	require.Contains(t, Status{Repairs: RepairStatus{Total: 1, Recent: make([]Repair, 1)}}.Text(), "\nrepairs    1\n")
}
