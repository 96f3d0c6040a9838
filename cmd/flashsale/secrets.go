package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
)

// secretsVar names the folder whose files stand for {secret:NAME} in a setting.
const secretsVar = "FLASHSALE_SECRETS"

func secretsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "secrets",
		Short: "Make random secrets in a folder, and show one",
		Long: `A setting may say {secret:NAME}, alone or within a URL. The text of the file NAME in the folder that
FLASHSALE_SECRETS names stands in its place, so that settings can be read by anybody, and secrets come from
wherever they are kept: a volume, Docker's or Kubernetes' secrets.`,
		Example: `  flashsale secrets make database token-secret    make those that are not there
  flashsale secrets show operator-password
  DATABASE_URL='postgres://flash:{secret:database}@db/{database}' FLASHSALE_SECRETS=/run/secrets flashsale serve`,
	}
	var dir string
	cmd.PersistentFlags().StringVar(&dir, "dir", os.Getenv(secretsVar), "folder of the secrets ["+secretsVar+"]")
	folder := func() (dataFolder, error) {
		if dir == "" {
			return dataFolder{}, fmt.Errorf("which folder? name it with --dir, or in %s", secretsVar)
		}
		return openDataFolder(dir)
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "make NAME…",
		Short: "Make the secrets that are not there yet",
		Long: `Makes the secrets that are not there yet: 64 hexadecimal digits each, which need no quoting in a URL. What is
there stays as it is. The files can be read by their owner and his group.`,
		Example: `  flashsale secrets make --dir /run/flashsale database token-secret operator-password`,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, names []string) error {
			d, err := folder()
			if err != nil {
				return err
			}
			for _, name := range names {
				if _, err := secretFile(dir, name); err != nil {
					return err
				}
				_, gone := os.Stat(d.file(name))
				if _, err := d.secret(name); err != nil {
					return err
				}
				if err := os.Chmod(d.file(name), 0o440); err != nil {
					return err
				}
				state := "is there"
				if gone != nil {
					state = "made"
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%-18s %s\n", name, state)
			}
			return nil
		},
	}, &cobra.Command{
		Use:     "show NAME",
		Short:   "Print a secret",
		Example: `  flashsale secrets show --dir /run/flashsale operator-password`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, names []string) error {
			text, err := readSecret(dir, names[0])
			if err == nil {
				fmt.Fprintln(cmd.OutOrStdout(), text)
			}
			return err
		},
	})
	return cmd
}

// secretFile is where a secret is. A name is no path.
func secretFile(dir, name string) (string, error) {
	if !regexp.MustCompile(`^[a-z0-9][a-z0-9._-]*$`).MatchString(name) {
		return "", fmt.Errorf("%q is no name of a secret; use small letters, digits, dots and dashes", name)
	}
	if dir == "" {
		return "", fmt.Errorf("the secret %s: in which folder? name it in %s", name, secretsVar)
	}
	return filepath.Join(dir, name), nil
}

func readSecret(dir, name string) (string, error) {
	path, err := secretFile(dir, name)
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("the secret %s cannot be read; make it with flashsale secrets make --dir %s %s: %w", name, dir, name, err)
	}
	text := strings.TrimSpace(string(b))
	if text == "" {
		return "", fmt.Errorf("the secret %s is empty; remove the file %s to have a new one made", name, path)
	}
	return text, nil
}

// withSecrets puts secrets in the places of {secret:NAME}.
func withSecrets(text, dir string) (string, error) {
	var errs []error
	out := regexp.MustCompile(`\{secret:([^}]*)\}`).ReplaceAllStringFunc(text, func(place string) string {
		s, err := readSecret(dir, strings.TrimSuffix(strings.TrimPrefix(place, "{secret:"), "}"))
		errs = append(errs, err)
		return s
	})
	return out, errors.Join(errs...)
}
