package main

import (
	"bytes"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
)

// execution runs twill in this process as run does.
func execution(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	root := newRoot()
	root.SetOut(&out)
	root.SetErr(&errs)
	code = execute(t.Context(), root, args)
	return out.String(), errs.String(), code
}

// A word that is no command says where to find those that are, and is a failure,
// whatever group of commands it is said to.
func TestUnknownCommand(t *testing.T) {
	for _, tt := range []struct {
		args  []string
		where string
		meant string
	}{
		{args: []string{"doctor"}, where: "twill"},
		{args: []string{"stats"}, where: "twill", meant: "status"},
		{args: []string{"config", "bogus"}, where: "twill config"},
		{args: []string{"config", "chekc"}, where: "twill config", meant: "check"},
		{args: []string{"config", "sett"}, where: "twill config", meant: "set"},
		{args: []string{"host", "prep"}, where: "twill host", meant: "prepare"},
		{args: []string{"cni", "isntall"}, where: "twill cni", meant: "install"},
		{args: []string{"cni", "bogus"}, where: "twill cni"},
		{args: []string{"lab", "donw"}, where: "twill lab", meant: "down"},
		{args: []string{"lab", "--name", "up", "dwon"}, where: "twill lab", meant: "down"},
		{args: []string{"lab", "node-init1"}, where: "twill lab"}, // that one is nobody's to call
		{args: []string{"store", "bogus"}, where: "twill store"},
		{args: []string{"store", "--log-level=info", "bakcup"}, where: "twill store", meant: "backup"},
		{args: []string{"config", "-h=false", "--", "bogus"}, where: "twill config"},
		{args: []string{"config", "get", "x"}, where: "twill config get"},
		{args: []string{"help", "stats"}, where: "twill", meant: "status"},
		{args: []string{"help", "config", "chekc"}, where: "twill config", meant: "check"},
		{args: []string{"help", "store", "bakcup"}, where: "twill store", meant: "backup"},
	} {
		stdout, stderr, code := execution(t, tt.args...)
		word := tt.args[len(tt.args)-1]
		want := "twill: unknown command \"" + word + "\" for \"" + tt.where + "\"; see " + tt.where + " --help\n"
		if tt.meant != "" {
			want += "\nDid you mean this?\n\t" + tt.meant + "\n"
		}
		require.Equal(t, 1, code, "%v", tt.args)
		require.Equal(t, want, stderr)
		require.Empty(t, stdout)
	}
	require.Equal(t, "another", inWords(errors.New("another")))
}

// A group alone, and who asks for help, is shown what there is.
func TestHelpOfAGroup(t *testing.T) {
	for _, args := range [][]string{
		{}, {"--help"}, {"config"}, {"config", "--help"}, {"help", "config"}, {"host"}, {"cni"}, {"lab"}, {"lab", "--name", "up"}, {"lab", "-h"}, {"store", "--help"},
		{"config", "bogus", "--help"}, {"help"}, {"help", "store"}, {"help", "completion"},
	} {
		stdout, stderr, code := execution(t, args...)
		require.Zero(t, code, "%v", args)
		require.Contains(t, stdout, "Available Commands:", "%v", args)
		require.Empty(t, stderr)
	}
	for _, args := range [][]string{{"help", "help"}, {"help", "config", "set"}} {
		_, stderr, code := execution(t, args...)
		require.Zero(t, code, "%v", args)
		require.Empty(t, stderr)
	}
	stdout, _, code := execution(t, "__complete", "config", "")
	require.Zero(t, code)
	require.Contains(t, stdout, "check")
	_, stderr, code := execution(t, "config", "--bogus")
	require.Equal(t, 1, code)
	require.Equal(t, "twill: unknown flag: --bogus\n", stderr)
}
