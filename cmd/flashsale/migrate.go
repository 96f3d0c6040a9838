package main

import (
	"flashsale/database/postgres"
	"fmt"
	"os"

	"github.com/spf13/cobra"
)

func migrateCommand() *cobra.Command {
	cfg := defaults()
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Bring the databases to the schema of this program",
		Long: `Creates or updates the tables of every role named by --roles, each in its own PostgreSQL database.
The databases themselves must be there. The embedded default needs no migrate: its files are made at start.`,
		Example: `  DATABASE_URL='postgres://flash:secret@127.0.0.1:5432/{database}' flashsale migrate
  flashsale migrate --roles=inventory,order`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := cfg.fill(cmd.Flags(), os.Getenv); err != nil {
				return err
			}
			if cfg.embedded() {
				return fmt.Errorf("no DATABASE_URL is set; the embedded default migrates by itself when it starts")
			}
			for _, role := range cfg.Roles {
				name, owns := databases()[role]
				if !owns {
					continue
				}
				url := cfg.databaseURL(role)
				if url == "" {
					return fmt.Errorf("no database for the role %s; set DATABASE_URL with {database} in it", role)
				}
				pool, err := postgres.Open(cmd.Context(), url, 2, patience)
				if err != nil {
					return fmt.Errorf("%s: %w", role, err)
				}
				err = postgres.Migrate(cmd.Context(), pool, schema(role).postgres)
				pool.Close()
				if err != nil {
					return fmt.Errorf("%s: %w", role, err)
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%-14s database %s is up to date\n", role, name)
			}
			return nil
		},
	}
	cfg.bind(cmd.Flags())
	return cmd
}
