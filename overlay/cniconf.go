package overlay

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/twill-net/twill/overlay/install"
	"github.com/twill-net/twill/overlay/pods/confdir"
)

// putCNIConf has the runtime find the node's network, which it may use now.
func (a *Agent) putCNIConf() {
	s := a.state
	if a.cfg.CNIConf == nil || s.cniConf {
		return
	}
	err := a.readCNIConf()
	changed, broken, errPut := a.cfg.CNIConf.Put()
	err = errors.Join(err, errPut)
	if a.board.problem(partInstall, err) && err != nil {
		a.cfg.Log.WithError(err).Warn("CNI config could not be installed, will retry")
	}
	if changed {
		if log := a.cfg.Log.WithField("file", a.cfg.CNIConf.Path); broken {
			log.Warn(filepath.Base(a.cfg.CNIConf.Path) + " was not readable; written anew")
		} else {
			log.Info("CNI config installed")
		}
		s.cniSeen = false
		a.lookAtCNIConfs()
	}
	s.cniConf = true // until the next full pass
}

// readCNIConf takes what is to be installed as it is now: the file may be a
// ConfigMap's. One that cannot be used leaves the one before.
func (a *Agent) readCNIConf() error {
	if a.cfg.CNIConfSource == "" {
		return nil
	}
	c, err := install.ReadConflist(a.cfg.CNIConfSource, a.cfg.CNIConf.Path)
	if err != nil {
		return fmt.Errorf("the one before stays: %w", err)
	}
	a.cfg.CNIConf = c
	return nil
}

// lookAtCNIConfs looks for CNI configs of others, once in each full pass. They
// are theirs, and stay.
func (a *Agent) lookAtCNIConfs() {
	s := a.state
	if s.cniSeen || a.cfg.CNIConfDir == "" {
		return
	}
	s.cniSeen = true
	own := ""
	if a.cfg.CNIConf != nil {
		own = filepath.Base(a.cfg.CNIConf.Path)
	}
	before, behind, ours, err := confdir.Foreign(a.cfg.CNIConfDir, own)
	if !ours && own == "" { // nobody runs pods on our network here
		before, behind = nil, nil
	}
	if err == nil && len(before) > 0 {
		err = fmt.Errorf("runtimes take %s, which sorts before ours in %s: new pods are not on this network; remove it, and make its pods anew", strings.Join(before, ", "), a.cfg.CNIConfDir)
	}
	a.board.otherCNI(before, behind)
	if a.board.problem(partCNI, err) && err != nil {
		a.cfg.Log.WithError(err).Warn("whether pods get on this network is in doubt")
	}
}
