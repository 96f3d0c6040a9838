// Package nginx is the configuration of the reverse proxy in front of the services: sync.conf and
// async.conf differ in how they choose an instance, and in nothing else.
package nginx

import (
	"embed"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

//go:embed *.conf shared site
var files embed.FS

// Services are those that nginx hands requests to.
func Services() []string {
	return []string{"account", "catalog", "order", "payment", "reservation", "inventory", "console"}
}

// Site is what differs from place to place. What is empty stays as it is for the compose files.
type Site struct {
	Listen    string              // host:port
	Instances map[string][]string // service → host:port of each instance; every service must be there
	Files     map[string]string   // more files of site/, or others instead: "log.conf", "http/echo.conf", "server/echo.conf"
}

// Write writes the configuration for a site into a folder that is there: run
// nginx -p FOLDER/ -e stderr -c FOLDER/sync.conf, or async.conf.
func Write(dir string, s Site) error {
	if err := os.CopyFS(dir, files); err != nil {
		return fmt.Errorf("nginx configuration: %w", err)
	}
	out := map[string]string{}
	if s.Listen != "" {
		out["listen.conf"] = "listen " + s.Listen + " reuseport backlog=4096;\n"
	}
	for _, name := range Services() {
		if len(s.Instances[name]) == 0 {
			return fmt.Errorf("nginx configuration: no instance of %s; name host:port of at least one", name)
		}
		var servers strings.Builder
		for _, addr := range s.Instances[name] {
			fmt.Fprintf(&servers, "server %s max_fails=3 fail_timeout=5s;\n", addr)
		}
		out[name+".conf"] = servers.String()
	}
	for name, text := range s.Files {
		out[name] = text
	}
	for name, text := range out {
		path := filepath.Join(dir, "site", filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}
