package overlay

import "github.com/prometheus/client_golang/prometheus"

// metrics are kept where things happen; what can be counted on request is
// collected then (see collector).
type metrics struct {
	ready, leaseExpiry prometheus.Gauge
	repairs            *prometheus.CounterVec
}

func newMetrics(reg *prometheus.Registry) *metrics {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	}
	m := &metrics{
		ready:       gauge("twill_ready", "1 when the node is ready: lease held, device up, rules in, first list of peers programmed."),
		leaseExpiry: gauge("twill_lease_expiry_timestamp_seconds", "When this node's lease would end, as of its last renewal."),
		repairs: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "twill_repairs_total",
			Help: "Objects that were changed behind our back and mended."}, []string{"kind"}),
	}
	if reg != nil {
		reg.MustRegister(m.ready, m.leaseExpiry, m.repairs)
	}
	return m
}

// counts is what the metrics tell of the status.
type counts struct {
	storeUp                            bool
	peers, refused, failing, contended int
	cni                                map[string]int    // configs of others by place
	sysctls                            int               // of failing
	blocked                            int               // chains
	drops                              map[string]uint64 // packets by reason
}

// collector tells what the status holds, when it is asked.
type collector struct {
	counts                                      func() counts
	storeUp, peers, refused, failing, contended *prometheus.Desc
	cni, sysctls, blocked, drops                *prometheus.Desc
}

func newCollector(counts func() counts) *collector {
	desc := func(name, help string) *prometheus.Desc { return prometheus.NewDesc(name, help, nil, nil) }
	return &collector{
		counts:    counts,
		storeUp:   desc("twill_store_up", "1 once the store has answered, and as long as it does."),
		peers:     desc("twill_peers", "Nodes that are peers."),
		refused:   desc("twill_refused_records", "Records of the store that do not count; see the status for reasons."),
		failing:   desc("twill_failing_objects", "Kernel objects that cannot be made as they must be."),
		contended: desc("twill_contended_objects", "Kernel objects that something else keeps undoing."),
		cni: prometheus.NewDesc("twill_foreign_cni_configs",
			"CNI configs of others beside ours, by place: before it, where runtimes take them and no pod is on our network, or behind it.", []string{"place"}, nil),
		sysctls: desc("twill_wrong_sysctls", "Sysctls that are not as they must be and cannot be written, as in a container that is not privileged."),
		blocked: desc("twill_forward_blocked_chains", "Chains of other programs that drop what is forwarded and cannot be given our accepts."),
		drops: prometheus.NewDesc("twill_dropped_packets_total",
			"Packets that VTEP hygiene dropped, by reason; from 0 again when the rules are made anew.", []string{"reason"}, nil),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	n := c.counts()
	for _, m := range []struct {
		desc  *prometheus.Desc
		value float64
	}{
		{c.storeUp, bit(n.storeUp)},
		{c.peers, float64(n.peers)},
		{c.refused, float64(n.refused)},
		{c.failing, float64(n.failing)},
		{c.contended, float64(n.contended)},
		{c.sysctls, float64(n.sysctls)},
		{c.blocked, float64(n.blocked)},
	} {
		ch <- prometheus.MustNewConstMetric(m.desc, prometheus.GaugeValue, m.value)
	}
	for place, files := range n.cni {
		ch <- prometheus.MustNewConstMetric(c.cni, prometheus.GaugeValue, float64(files), place)
	}
	for reason, packets := range n.drops {
		ch <- prometheus.MustNewConstMetric(c.drops, prometheus.CounterValue, float64(packets), reason)
	}
}
