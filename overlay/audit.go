package overlay

import (
	"github.com/sirupsen/logrus"

	"github.com/twill-net/twill/backend"
)

// repair is a change that undid a drift.
type repair struct {
	backend.Change
	times int // how often lately
}

// applied notes what became of a step.
func (a *Agent) applied(r *round, st step, err error) {
	s := a.state
	k := st.Key()
	if err != nil {
		p := s.later(st, r.now)
		p.failed = true
		p.at = r.now.Add(p.attempt.NextBackOff())
		if a.board.objectFailed(k, err) {
			a.cfg.Log.WithField("object", k.String()).WithError(err).Warn("change failed, will retry")
		}
		return
	}
	if s.pending[k] != nil {
		delete(s.pending, k)
		a.board.objectWorks(k)
	}
	if !st.repair {
		return
	}
	done := repair{st.Change, 1}
	if !r.along(st.Object()) {
		done.times = s.pace.repaired(k, r.now)
	}
	a.board.repaired(r.now, done)
	r.repairs = append(r.repairs, done)
}

// logRepairs writes the audit lines of one pass: one each for a few repairs,
// and one in all for many, as when a device with all its entries went.
func (a *Agent) logRepairs(repairs []repair) {
	const few = 8
	byKind := logrus.Fields{}
	for n, r := range repairs {
		kind := r.Key().Kind.String()
		count, _ := byKind[kind].(int)
		byKind[kind] = count + 1
		level := logrus.InfoLevel
		if len(repairs) > few || r.times > contended {
			level = logrus.DebugLevel
		}
		if r.times == contended && n < few {
			a.cfg.Log.WithFields(logrus.Fields{"object": r.Key().String(), "times": r.times}).Warn("something keeps undoing our work: repairs slow down")
		}
		a.cfg.Log.WithFields(logrus.Fields{"object": r.Key().String(), "before": text(r.Have), "after": text(r.Want), "times": r.times}).Log(level, "repaired")
	}
	if len(repairs) > few {
		a.cfg.Log.WithFields(byKind).Info("repaired many objects")
	}
}

func text(o backend.Object) string {
	if o == nil {
		return "absent"
	}
	return o.String()
}
