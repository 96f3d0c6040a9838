package main

import (
	"context"
	"flashsale/telemetry/collector"
	"net"
	"os"
	"slices"
	"strings"
)

// service names this process by its roles, in their usual order: all, or such as reservation+inventory.
func (c *Config) service() string {
	if len(c.Roles) == len(allRoles()) {
		return "all"
	}
	var named []string
	for _, r := range allRoles() {
		if slices.Contains(c.Roles, r) {
			named = append(named, r)
		}
	}
	return strings.Join(named, "+")
}

// instance names this process among those with the same roles, the same again after a restart.
func (a *app) instance() string {
	if a.cfg.Instance != "" {
		return a.cfg.Instance
	}
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	_, port, err := net.SplitHostPort(a.listen.Addr().String())
	if err != nil {
		return host
	}
	return net.JoinHostPort(host, port)
}

// collect adds the loop that writes CPU and memory to InfluxDB, if there is one.
func (a *app) collect(ctx context.Context) error {
	if a.cfg.InfluxURL == "" {
		return nil
	}
	c, err := collector.New(ctx, collector.Options{
		URL: a.cfg.InfluxURL, Token: a.cfg.InfluxToken, Org: a.cfg.InfluxOrg, Bucket: a.cfg.InfluxBucket,
		Service: a.cfg.service(), Instance: a.instance(), Wiring: string(a.cfg.Mode),
		Every: a.cfg.CollectEvery, Root: os.DirFS("/"), Clock: a.clock, Log: a.log,
	})
	if err != nil {
		return err
	}
	a.loops = append(a.loops, c.Run)
	return nil
}
