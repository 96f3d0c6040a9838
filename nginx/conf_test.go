package nginx

import (
	"flashsale/testenv"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// folder is one that nginx's workers can enter, whoever they run as.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "flashsale-nginx-")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func everywhere(addrs ...string) map[string][]string {
	m := map[string][]string{}
	for _, s := range Services() {
		m[s] = addrs
	}
	return m
}

func nginxBin(t *testing.T) string {
	t.Helper()
	bin, err := testenv.NginxBin()
	if err != nil {
		t.Fatal("no nginx: run `make test`, or install nginx 1.22 or newer")
	}
	return bin
}

// TestSyntax is nginx -t for both wirings.
func TestSyntax(t *testing.T) {
	t.Parallel()
	bin, dir := nginxBin(t), folder(t)
	if err := Write(dir, Site{Listen: "127.0.0.1:18080", Instances: everywhere("127.0.0.1:1", "127.0.0.1:2")}); err != nil {
		t.Fatal(err)
	}
	for _, wiring := range []string{"sync", "async"} {
		out, err := exec.CommandContext(t.Context(), bin, "-t", "-p", dir+"/", "-e", "stderr", "-c", filepath.Join(dir, wiring+".conf")).CombinedOutput()
		if err != nil {
			t.Errorf("nginx -t %s.conf: %v\n%s", wiring, err, out)
		}
	}
	if err := Write(folder(t), Site{Instances: map[string][]string{"account": {"127.0.0.1:1"}}}); err == nil {
		t.Error("a site without a catalog is written")
	}
}
