// Package images uses gophercloud for what its own acceptance tests leave out: bytes up and down, members, the ends of
// tasks. Its last image stays, for those tests that look for one.
package images

import (
	"bytes"
	"io"
	"os"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud"
	"github.com/gophercloud/gophercloud/openstack"
	"github.com/gophercloud/gophercloud/openstack/imageservice/v2/imagedata"
	"github.com/gophercloud/gophercloud/openstack/imageservice/v2/imageimport"
	"github.com/gophercloud/gophercloud/openstack/imageservice/v2/images"
	"github.com/gophercloud/gophercloud/openstack/imageservice/v2/members"
	"github.com/gophercloud/gophercloud/openstack/imageservice/v2/tasks"
	th "github.com/gophercloud/gophercloud/testhelper"
)

// Between two looks at what is awaited; `go test` ends a test that waits too long.
const pause = 200 * time.Millisecond

func client(t *testing.T, user, password, project string) *gophercloud.ServiceClient {
	provider, err := openstack.AuthenticatedClient(gophercloud.AuthOptions{
		IdentityEndpoint: os.Getenv("OS_AUTH_URL"),
		Username:         os.Getenv(user),
		Password:         os.Getenv(password),
		TenantName:       os.Getenv(project),
		DomainName:       os.Getenv("OS_DOMAIN_NAME"),
	})
	th.AssertNoErr(t, err)
	service, err := openstack.NewImageServiceV2(provider, gophercloud.EndpointOpts{Region: os.Getenv("OS_REGION_NAME")})
	th.AssertNoErr(t, err)
	return service
}

func owner(t *testing.T) *gophercloud.ServiceClient {
	return client(t, "OS_USERNAME", "OS_PASSWORD", "OS_PROJECT_NAME")
}

func record(t *testing.T, service *gophercloud.ServiceClient, name string) string {
	image, err := images.Create(service, images.CreateOpts{
		Name: name, ContainerFormat: "bare", DiskFormat: "raw", Tags: []string{"gophercloud"},
	}).Extract()
	th.AssertNoErr(t, err)
	th.AssertEquals(t, images.ImageStatusQueued, image.Status)
	return image.ID
}

// Waits until the image is active.
func active(t *testing.T, service *gophercloud.ServiceClient, id string) *images.Image {
	for {
		image, err := images.Get(service, id).Extract()
		th.AssertNoErr(t, err)
		if image.Status == images.ImageStatusActive {
			return image
		}
		time.Sleep(pause)
	}
}

func download(t *testing.T, service *gophercloud.ServiceClient, id string) []byte {
	content, err := imagedata.Download(service, id).Extract()
	th.AssertNoErr(t, err)
	read, err := io.ReadAll(content)
	th.AssertNoErr(t, err)
	return read
}

func TestBytesGoUpAndDown(t *testing.T) {
	service := owner(t)
	sent := bytes.Repeat([]byte("a raw disk "), 5000)
	id := record(t, service, "uploaded")
	th.AssertNoErr(t, imagedata.Upload(service, id, bytes.NewReader(sent)).ExtractErr())
	image := active(t, service, id)
	th.AssertEquals(t, int64(len(sent)), image.SizeBytes)
	th.AssertDeepEquals(t, sent, download(t, service, id))
	th.AssertNoErr(t, images.Delete(service, id).ExtractErr())
	_, err := images.Get(service, id).Extract()
	if _, gone := err.(gophercloud.ErrDefault404); !gone {
		t.Fatalf("a deleted image is not there: %v", err)
	}
}

func TestStagedBytesAndThoseOfTheWebAreImported(t *testing.T) {
	service := owner(t)
	staged := record(t, service, "staged")
	th.AssertNoErr(t, imagedata.Stage(service, staged, bytes.NewReader([]byte("a raw disk"))).ExtractErr())
	direct := imageimport.CreateOpts{Name: imageimport.GlanceDirectMethod}
	th.AssertNoErr(t, imageimport.Create(service, staged, direct).ExtractErr())
	th.AssertEquals(t, int64(10), active(t, service, staged).SizeBytes)

	web := record(t, service, "from the web")
	source := imageimport.CreateOpts{Name: imageimport.WebDownloadMethod, URI: os.Getenv("SOURCE")}
	th.AssertNoErr(t, imageimport.Create(service, web, source).ExtractErr())
	th.AssertEquals(t, int64(1<<20), active(t, service, web).SizeBytes)
}

func TestAnImageIsSharedAndAccepted(t *testing.T) {
	service := owner(t)
	partner := client(t, "PARTNER_USERNAME", "PARTNER_PASSWORD", "PARTNER_PROJECT_NAME")
	project := os.Getenv("PARTNER_PROJECT_NAME")
	id := record(t, service, "shared")
	if _, err := images.Get(partner, id).Extract(); err == nil {
		t.Fatal("seen before it is shared")
	}
	made, err := members.Create(service, id, project).Extract()
	th.AssertNoErr(t, err)
	th.AssertEquals(t, "pending", made.Status)
	accepted, err := members.Update(partner, id, project, members.UpdateOpts{Status: "accepted"}).Extract()
	th.AssertNoErr(t, err)
	th.AssertEquals(t, "accepted", accepted.Status)
	pages, err := members.List(service, id).AllPages()
	th.AssertNoErr(t, err)
	listed, err := members.ExtractMembers(pages)
	th.AssertNoErr(t, err)
	th.AssertEquals(t, 1, len(listed))
	_, err = images.Get(partner, id).Extract()
	th.AssertNoErr(t, err)
	if err := images.Delete(partner, id).ExtractErr(); err == nil {
		t.Fatal("deleted by who doesn't own it")
	}
	th.AssertNoErr(t, members.Delete(service, id, project).ExtractErr())
	th.AssertNoErr(t, images.Delete(service, id).ExtractErr())
}

func TestAnImportTaskMakesAnImage(t *testing.T) {
	service := owner(t)
	task, err := tasks.Create(service, tasks.CreateOpts{
		Type: "import",
		Input: map[string]interface{}{
			"import_from": os.Getenv("SOURCE"), "import_from_format": "raw",
			"image_properties": map[string]interface{}{"name": "imported"},
		},
	}).Extract()
	th.AssertNoErr(t, err)
	for task.Status != "success" {
		if task.Status == "failure" {
			t.Fatal(task.Message)
		}
		time.Sleep(pause)
		task, err = tasks.Get(service, task.ID).Extract()
		th.AssertNoErr(t, err)
	}
	image := active(t, service, task.Result["image_id"].(string))
	th.AssertEquals(t, "imported", image.Name)
}
