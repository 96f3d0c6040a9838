package testenv

import (
	"os"
	"os/exec"
)

// NginxBin returns where nginx is: on Debian it is not on every user's path.
func NginxBin() (string, error) {
	const debian = "/usr/sbin/nginx"
	if _, err := os.Stat(debian); err == nil {
		return debian, nil
	}
	return exec.LookPath("nginx")
}
