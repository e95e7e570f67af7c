package kernel_test

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDeleteBridge(t *testing.T) {
	ns := newNamespace(t)
	was, err := ns.DeleteBridge(t.Context(), "cni0")
	require.NoError(t, err)
	require.False(t, was)

	ns.run("ip link add cni0 type bridge")
	ns.run("ip link set cni0 up")
	ns.run("ip link set far master cni0")
	_, err = ns.DeleteBridge(t.Context(), "cni0")
	require.EqualError(t, err, "deleting bridge cni0: it has ports: far")
	_, err = ns.DeleteBridge(t.Context(), "far")
	require.EqualError(t, err, `deleting bridge far: it is of kind "veth"`)
	ns.run("ip link set far nomaster")
	was, err = ns.DeleteBridge(t.Context(), "cni0")
	require.NoError(t, err)
	require.True(t, was)
	_, err = ns.try("ip link show cni0")
	require.Error(t, err)
}
