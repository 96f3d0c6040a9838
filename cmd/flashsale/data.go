package main

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// dataFolder is the folder of the embedded default: the SQLite files, the queue, and two secrets
// that are made at the first start, so that tokens outlive a restart.
type dataFolder struct{ path string }

func openDataFolder(path string) (dataFolder, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return dataFolder{}, fmt.Errorf("the data folder cannot be made; name another with --data: %w", err)
	}
	return dataFolder{path}, nil
}

func (d dataFolder) file(name string) string { return filepath.Join(d.path, name) }

// secret returns the text of a file in the folder, made up at the first call.
func (d dataFolder) secret(name string) (string, error) {
	path := d.file(name)
	b, err := os.ReadFile(path)
	if text := strings.TrimSpace(string(b)); err == nil && text != "" {
		return text, nil
	}
	if err == nil {
		return "", fmt.Errorf("the file %s is empty; remove it to have a new secret made", path)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("secret %s: %w", path, err)
	}
	raw := make([]byte, 32)
	_, _ = rand.Read(raw) // never fails (Go 1.24)
	text := hex.EncodeToString(raw)
	if err := writeDurably(path, text+"\n"); err != nil {
		return "", fmt.Errorf("secret %s: %w", path, err)
	}
	return text, nil
}

// writeDurably writes a file beside and renames it: neither a crash nor a loss of power leaves half of it.
func writeDurably(path, text string) error {
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

// lock keeps a second process out of the folder: the gate is in memory, so two processes would
// sell the same units.
func (d dataFolder) lock() (release func(), err error) {
	f, err := os.OpenFile(d.file("lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock of the data folder: %w", err)
	}
	if err := flock(f); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("another flashsale is running on %s; stop it, or name another folder with --data", d.path)
	}
	return func() { _ = f.Close() }, nil
}
