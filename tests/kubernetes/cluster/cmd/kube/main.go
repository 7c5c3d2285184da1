// Command kube is every program of a Kubernetes control plane and node, and etcd and kubectl, in one binary: a program is
// called by a link of its name, or named by the first argument. One binary is linked once, and its parts share most of
// what they are made of.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"
	_ "time/tzdata" // for CronJobs with a time zone

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/etcdmain"
	_ "k8s.io/client-go/plugin/pkg/client/auth"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

const etcdTimeout = 10 * time.Second

// programs run with os.Args as they were called, and return the exit code.
var programs = map[string]func() int{
	"etcd":                    runEtcd,
	"etcd-compact":            runCompact,
	"kubectl":                 runKubectl,
	"kube-apiserver":          component(apiserver.NewAPIServerCommand),
	"kube-controller-manager": component(controllermanager.NewControllerManagerCommand),
	"kube-scheduler":          component(func() *cobra.Command { return scheduler.NewSchedulerCommand() }),
	"kube-proxy":              component(proxy.NewProxyCommand),
	"kubelet":                 component(func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) }),
}

func main() {
	name := filepath.Base(os.Args[0])
	if _, known := programs[name]; !known && len(os.Args) > 1 {
		os.Args = os.Args[1:]
		name = os.Args[0]
	}
	run, known := programs[name]
	if !known {
		names := make([]string, 0, len(programs))
		for each := range programs {
			names = append(names, each)
		}
		slices.Sort(names)
		fmt.Fprintf(os.Stderr, "kube: %q is none of its programs: %q\n", name, names)
		os.Exit(2)
	}
	os.Exit(run())
}

func component(command func() *cobra.Command) func() int {
	return func() int { return cli.Run(command()) }
}

func runEtcd() int {
	etcdmain.Main(os.Args) // ends the process by itself
	return 0
}

func runKubectl() int {
	if err := cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()); err != nil {
		util.CheckErr(err) // ends the process by itself, with kubectl's words and exit code
	}
	return 0
}

func runCompact() int {
	if err := compact(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "etcd-compact:", err)
		return 1
	}
	return 0
}

// compact forgets every revision before the one named, or before the newest: what an API server's own compaction does
// every five minutes, at a moment that a test chooses.
func compact(arguments []string) error {
	if len(arguments) == 0 {
		return errors.New("usage: etcd-compact URL [REVISION]")
	}
	ctx, cancel := context.WithTimeout(context.Background(), etcdTimeout)
	defer cancel()
	client, err := clientv3.New(clientv3.Config{Endpoints: arguments[:1], DialTimeout: etcdTimeout})
	if err != nil {
		return err
	}
	defer client.Close()
	var revision int64
	if len(arguments) > 1 {
		if revision, err = strconv.ParseInt(arguments[1], 10, 64); err != nil {
			return err
		}
	} else {
		newest, err := client.Get(ctx, "/", clientv3.WithCountOnly())
		if err != nil {
			return err
		}
		revision = newest.Header.Revision
	}
	if _, err := client.Compact(ctx, revision, clientv3.WithCompactPhysical()); err != nil {
		return err
	}
	fmt.Println(revision)
	return nil
}
