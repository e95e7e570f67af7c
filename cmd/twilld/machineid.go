package main

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
	"github.com/sirupsen/logrus"

	"github.com/twill-net/twill/overlay/statedir"
)

// machineIDFile is the name of a file in the state directory.
const machineIDFile = "machine-id"

// machineID returns what tells this machine from others of its name, "" for
// nothing.
func (o *options) machineID(log *logrus.Entry) string {
	if id := statedir.MachineID("/etc/machine-id"); id != "" {
		return id
	}
	id, err := ownMachineID(filepath.Join(o.stateDir, machineIDFile))
	if err != nil {
		log.WithError(err).Warn("two machines of one name cannot be told apart")
	}
	return id
}

// ownMachineID returns what tells this machine from others where there is no
// /etc/machine-id, as in a container: a number drawn once and kept in a file.
func ownMachineID(path string) (string, error) {
	if id := statedir.MachineID(path); id != "" {
		return id, nil
	}
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = renameio.WriteFile(path, []byte(hex.EncodeToString(id)+"\n"), 0o600)
	}
	if err != nil {
		return "", fmt.Errorf("keeping a machine ID: %w", err)
	}
	return statedir.MachineID(path), nil
}
