package testbed

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// InfluxVersion is what is built when no program is named: no Debian package has it.
const InfluxVersion = "v1.8.10"

// BuildInflux builds InfluxDB, a minute or so the first time, and returns the program.
func BuildInflux(ctx context.Context) (string, error) {
	return Build(ctx, "github.com/influxdata/influxdb", InfluxVersion, "./cmd/influxd")
}

// InfluxConfig is the configuration of a server with its files below home, which takes Flux and asks for no password.
func InfluxConfig(home string, port, backupPort int) string {
	return fmt.Sprintf("reporting-disabled = true\nbind-address = \"127.0.0.1:%d\"\n[meta]\ndir = %q\n[data]\ndir = %q\nwal-dir = %q\n"+
		"[http]\nbind-address = \"127.0.0.1:%d\"\nflux-enabled = true\nlog-enabled = false\n[monitor]\nstore-enabled = false\n",
		backupPort, filepath.Join(home, "meta"), filepath.Join(home, "data"), filepath.Join(home, "wal"), port)
}

// StartInflux starts the program below dir on free ports, and returns its address.
func StartInflux(ctx context.Context, dir, bin string) (*Process, string, error) {
	var ports Ports
	defer ports.Release()
	port, err := ports.Next(ctx)
	if err != nil {
		return nil, "", err
	}
	backup, err := ports.Next(ctx)
	if err != nil {
		return nil, "", err
	}
	conf := filepath.Join(dir, "influxdb.conf")
	if err := os.WriteFile(conf, []byte(InfluxConfig(filepath.Join(dir, "influx"), port, backup)), 0o600); err != nil {
		return nil, "", err
	}
	p, err := Spawn(ctx, dir, "influxdb", syscall.SIGTERM, BaseEnv(), nil, bin, "-config", conf)
	if err != nil {
		return nil, "", err
	}
	address := fmt.Sprintf("http://127.0.0.1:%d", port)
	return p, address, p.Ready(ctx, time.Minute, Answers(address+"/ping"))
}

// Answers asks whether an address answers with success.
func Answers(address string) func(context.Context) error {
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		_ = resp.Body.Close()
		if resp.StatusCode >= 300 {
			return fmt.Errorf("%s answers %d", address, resp.StatusCode)
		}
		return nil
	}
}
