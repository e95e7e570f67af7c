package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/twill-net/twill/overlay/etcdserver"
)

func newStoreBackup() *cobra.Command {
	var dir, from string
	var keep int
	c := &cobra.Command{
		Use:   "backup [FILE]",
		Short: "Save a snapshot of the store",
		Long: `Save a snapshot of the store, or of any etcd, in FILE; without FILE in --backup-dir under a name with the time, of which
the newest --backup-keep stay. The file is etcd's own format, and is in its place only when it is complete, on disk and found
sound. It holds all that is in etcd: keep it as safe as etcd itself.
With --from-data-dir it is taken from the data of a store that does not run, with the last write that was acknowledged.` + etcdHelp + `
So are TWILL_STORE_BACKUP_DIR and TWILL_STORE_BACKUP_KEEP.`,
		Example: "  twill store backup /mnt/nas/leases.db",
		Args:    cobra.MaximumNArgs(1),
	}
	f := c.Flags()
	f.StringVar(&dir, "backup-dir", "/var/lib/twill-store-backups", "`directory` for backups named by the time")
	f.IntVar(&keep, "backup-keep", 72, "how many of them stay")
	f.StringVar(&from, "from-data-dir", "", "back up this data `directory` of a stopped store instead")
	client, hint := storeClient(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if err := fromEnv(cmd, "backup-dir", "backup-keep"); err != nil {
			return err
		}
		if from != "" {
			if len(args) == 0 {
				return errors.New("--from-data-dir needs a FILE to save to")
			}
			s, err := etcdserver.BackupOffline(cmd.Context(), from, args[0])
			return said(cmd.OutOrStdout(), "saved", s, err)
		}
		cfg, err := client(cmd)
		if err != nil {
			return err
		}
		var s etcdserver.Snapshot
		if len(args) == 1 {
			s, err = etcdserver.Backup(cmd.Context(), cfg, args[0])
		} else {
			var later []string
			s, later, err = etcdserver.BackupInto(cmd.Context(), cfg, dir, keep, time.Now())
			if len(later) > 0 {
				fmt.Fprintf(cmd.ErrOrStderr(), "twill: by their names backups in %s are from the future, and are neither counted by --backup-keep nor deleted: %s; "+
					"look at the clock, then delete or rename them\n", dir, strings.Join(later, ", "))
			}
		}
		return said(cmd.OutOrStdout(), "saved", s, hint(err))
	}
	return c
}

func newStoreRestore() *cobra.Command {
	d := etcdserver.DefaultConfig()
	c := etcdserver.RestoreConfig{}
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Make a store's data from a snapshot",
		Long: `Make the data directory of a store from a snapshot that twill store backup, or etcdctl, has saved. The directory must
be empty or missing: nothing is overwritten. If it is another user's, so is the data.

The store comes back as another cluster, and with a larger revision than it ever had: by either of them clients see that what
they remember is void, and read everything anew. Nodes that are not in the backup announce themselves again at once; removals are
held for a minute meanwhile; packets flow on. Leases are good for their whole TTL again. What was released after the backup is there
again: see twill leases, and release it.` + storeEnvHelp,
		Example: "  twill store restore /var/lib/twill-store-backups/twill-store-20261121T140000Z.db",
		Args:    cobra.ExactArgs(1),
	}
	f := cmd.Flags()
	f.StringVar(&c.DataDir, "data-dir", d.DataDir, "`directory` to make the data in")
	f.StringVar(&c.Name, "name", d.Name, "name of the etcd member")
	f.Uint64Var(&c.BumpRevision, "bump-revision", 1_000_000_000, "add this to the revision and count what was before as compacted; 0: neither")
	f.BoolVar(&c.SkipHashCheck, "skip-hash-check", false, "take a bare database, member/snap/db of a data directory")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := fromEnv(cmd, "data-dir", "name"); err != nil {
			return err
		}
		c.Snapshot = args[0]
		s, err := etcdserver.Restore(c)
		if err := said(cmd.OutOrStdout(), "restored", s, err); err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "it is in %s; start the store: systemctl start twill-store\n", c.DataDir)
		return nil
	}
	return cmd
}

// said reports what became of a snapshot.
func said(w io.Writer, done string, s etcdserver.Snapshot, err error) error {
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "%s %s: %d keys, revision %d, %s\n", done, s.Path, s.Keys, s.Revision, humanSize(s.Size))
	return nil
}

// humanSize formats a size for people.
func humanSize(n int64) string {
	switch {
	case n >= 10<<30:
		return fmt.Sprintf("%d GiB", n>>30)
	case n >= 10<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	default:
		return fmt.Sprintf("%d KiB", n>>10)
	}
}
