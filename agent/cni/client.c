/* quietwire-cni: what a container runtime runs for each sandbox of a pod, after the plugins that made its network
 * (CNI specification 1.1.0). The host needs no Python for it: one static program without dependencies.
 *
 * It decides nothing. It hands its environment and its configuration to the node's agent, over a socket that only root
 * reaches, and repeats what the agent answers. Where no agent answers in time, ADD fails, and the runtime tries again:
 * a pod that may have to be captured does not start. Only namespaces that the configuration exempts do not wait for an
 * agent, so that what an agent itself needs can start. DEL and GC always succeed: rules go with the namespace that they
 * are in.
 *
 * To the agent:   "quietwire-cni 1\n", each CNI_ variable as "NAME=VALUE" and a zero byte, a zero byte, the
 *                 configuration as it came; then it writes no more.
 * From the agent: "EXIT LENGTH\n", the exit status and the length of what follows; that is printed.
 */

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define GREETING "quietwire-cni 1\n"
#define SOCKET "/run/quietwire/cni/cni.sock"
#define SECONDS 60
#define MAX_SECONDS 600
#define QUICK_SECONDS 5 /* for what does not wait for an agent that is about to start */
#define AGAIN_MS 100
#define MAX_BYTES (4u << 20)
#define VERSION "1.1.0"
#define SUPPORTED "[\"0.3.0\",\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\"]"

/* CNI specification, "Error codes". */
enum { ENVIRONMENT = 4, INPUT_OUTPUT = 5, UNDECODABLE = 6, CONFIGURATION = 7, TRY_AGAIN = 11, NOT_AVAILABLE = 50 };

struct text {
    const char *at;
    size_t length;
};

struct buffer {
    char *at;
    size_t length, room;
};

static bool is(struct text text, const char *words)
{
    return text.length == strlen(words) && memcmp(text.at, words, text.length) == 0;
}

/* Reading a configuration: as much of JSON (RFC 8259) as it takes to find the values of one object. */

static const char *blank(const char *at, const char *end)
{
    while (at < end && (*at == ' ' || *at == '\t' || *at == '\n' || *at == '\r'))
        at++;
    return at;
}

/* Past the string that begins here; NULL where it does not end. */
static const char *past_string(const char *at, const char *end)
{
    for (at++; at < end; at++) {
        if (*at == '\\')
            at++;
        else if (*at == '"')
            return at + 1;
    }
    return NULL;
}

/* Past the value that begins here; NULL where there is none, or it does not end. */
static const char *past_value(const char *at, const char *end)
{
    size_t depth = 0;
    const char *began = at;

    while (at < end) {
        if (*at == '"') {
            if ((at = past_string(at, end)) == NULL)
                return NULL;
            if (depth == 0)
                return at;
            continue;
        }
        if (*at == '{' || *at == '[') {
            depth++;
        } else if (*at == '}' || *at == ']') {
            if (depth == 0)
                return at > began ? at : NULL;
            if (--depth == 0)
                return at + 1;
        } else if (depth == 0 && (*at == ',' || *at == ':' || blank(at, at + 1) != at)) {
            return at > began ? at : NULL;
        }
        at++;
    }
    return NULL;
}

/* Goes on by one element of the list or object that `*rest` is within; false at its end, and where it is none. */
static bool element(struct text *rest, struct text *key, struct text *value)
{
    const char *at = rest->at, *end = rest->at + rest->length, *next;

    at = blank(at, end);
    if (at < end && *at == ',')
        at = blank(at + 1, end);
    if (key != NULL) {
        if (at >= end || *at != '"' || (next = past_string(at, end)) == NULL)
            return false;
        *key = (struct text){ at + 1, (size_t)(next - at) - 2 };
        at = blank(next, end);
        if (at >= end || *at != ':')
            return false;
        at = blank(at + 1, end);
    }
    if ((next = past_value(at, end)) == NULL)
        return false;
    *value = (struct text){ at, (size_t)(next - at) };
    *rest = (struct text){ next, (size_t)(end - next) };
    return true;
}

/* What is within a list or an object; false where it is something else. */
static bool within(struct text value, char opening, struct text *rest)
{
    const char *at = blank(value.at, value.at + value.length);

    if (at >= value.at + value.length || *at != opening)
        return false;
    *rest = (struct text){ at + 1, value.length - (size_t)(at + 1 - value.at) };
    return true;
}

static bool field(struct text object, const char *name, struct text *found)
{
    struct text rest, key, value;

    if (!within(object, '{', &rest))
        return false;
    while (element(&rest, &key, &value))
        if (is(key, name)) {
            *found = value;
            return true;
        }
    return false;
}

/* A string without its quotes; one with an escape in it is not any that is looked for here. */
static bool string(struct text value, struct text *found)
{
    if (value.length < 2 || *value.at != '"' || memchr(value.at, '\\', value.length) != NULL)
        return false;
    *found = (struct text){ value.at + 1, value.length - 2 };
    return true;
}

static bool string_field(struct text object, const char *name, struct text *found)
{
    struct text value;

    return field(object, name, &value) && string(value, found);
}

/* Printing */

static bool print(const char *at, size_t length)
{
    while (length > 0) {
        ssize_t written = write(STDOUT_FILENO, at, length);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return false;
        at += written;
        length -= (size_t)written;
    }
    return true;
}

/* In our own words only: the details of a fault are the kernel's, and have nothing in them that JSON would escape. */
static int failed(struct text version, int code, const char *message, const char *details)
{
    char out[1024];
    int length = snprintf(out, sizeof out,
                          "{\"cniVersion\":\"%.*s\",\"code\":%d,\"msg\":\"%s\",\"details\":\"%s\"}\n",
                          (int)version.length, version.at, code, message, details);

    if (length < 0 || (size_t)length >= sizeof out)
        length = snprintf(out, sizeof out, "{\"cniVersion\":\"" VERSION "\",\"code\":%d,\"msg\":\"quietwire\"}\n", code);
    print(out, (size_t)length);
    return 1;
}

/* Bytes */

static bool append(struct buffer *buffer, const char *at, size_t length)
{
    if (buffer->length + length > buffer->room) {
        size_t room = 2 * (buffer->length + length);
        char *more = realloc(buffer->at, room);
        if (more == NULL)
            return false;
        buffer->at = more;
        buffer->room = room;
    }
    memcpy(buffer->at + buffer->length, at, length);
    buffer->length += length;
    return true;
}

static long now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Whether it is ready for this before the deadline. */
static bool ready(int fd, short events, long deadline)
{
    for (;;) {
        struct pollfd waiting = { .fd = fd, .events = events };
        long left = deadline - now_ms();
        int found = left > 0 ? poll(&waiting, 1, (int)left) : 0;
        if (found < 0 && errno == EINTR)
            continue;
        return found > 0;
    }
}

/* One question to the agent; false where no whole answer came, with the reason in errno. */
static bool ask(const struct sockaddr_un *address, const struct buffer *request, long deadline, struct buffer *answer)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    size_t sent = 0;
    bool whole = false;

    if (fd < 0)
        return false;
    if (connect(fd, (const struct sockaddr *)address, sizeof *address) != 0)
        goto out; /* a full queue is EAGAIN, and asked again like all else */
    while (sent < request->length) {
        ssize_t written = send(fd, request->at + sent, request->length - sent, MSG_NOSIGNAL);
        if (written >= 0) {
            sent += (size_t)written;
        } else if (errno == EAGAIN) {
            if (!ready(fd, POLLOUT, deadline)) {
                errno = ETIMEDOUT;
                goto out;
            }
        } else if (errno != EINTR) {
            goto out;
        }
    }
    if (shutdown(fd, SHUT_WR) != 0)
        goto out;
    for (;;) {
        char chunk[16384];
        ssize_t got = recv(fd, chunk, sizeof chunk, 0);
        if (got > 0) {
            errno = ENOMEM;
            if (answer->length + (size_t)got > MAX_BYTES || !append(answer, chunk, (size_t)got))
                goto out;
        } else if (got == 0) {
            whole = true;
            goto out;
        } else if (errno == EAGAIN) {
            if (!ready(fd, POLLIN, deadline)) {
                errno = ETIMEDOUT;
                goto out;
            }
        } else if (errno != EINTR) {
            goto out;
        }
    }
out:;
    int kept = errno;
    close(fd);
    errno = kept;
    return whole;
}

/* Prints what was answered; -1 where that is not whole, else the exit status. */
static int repeat(const struct buffer *answer)
{
    const char *end = answer->length > 0 ? memchr(answer->at, '\n', answer->length) : NULL;
    char head[32];
    int status;
    size_t length;

    if (end == NULL || (size_t)(end - answer->at) >= sizeof head)
        return -1;
    memcpy(head, answer->at, (size_t)(end - answer->at));
    head[end - answer->at] = 0;
    if (sscanf(head, "%d %zu", &status, &length) != 2 || status < 0 || status > 1)
        return -1;
    if (answer->length != (size_t)(end + 1 - answer->at) + length)
        return -1;
    return print(end + 1, length) ? status : 1;
}

/* Of "A=1;B=2", as the runtime tells of a pod. */
static bool argument(const char *arguments, const char *name, struct text *found)
{
    size_t length = strlen(name);

    while (arguments != NULL && *arguments != 0) {
        size_t whole = strcspn(arguments, ";");
        if (whole > length && strncmp(arguments, name, length) == 0 && arguments[length] == '=') {
            *found = (struct text){ arguments + length + 1, whole - length - 1 };
            return true;
        }
        arguments += whole + (arguments[whole] == ';');
    }
    return false;
}

static bool is_exempt(struct text configuration)
{
    struct text namespace, list, rest, value, name;

    if (!argument(getenv("CNI_ARGS"), "K8S_POD_NAMESPACE", &namespace) || namespace.length == 0)
        return false;
    if (!field(configuration, "exemptNamespaces", &list) || !within(list, '[', &rest))
        return false;
    while (element(&rest, NULL, &value))
        if (string(value, &name) && name.length == namespace.length && !memcmp(name.at, namespace.at, name.length))
            return true;
    return false;
}

extern char **environ;

static bool request_of(struct buffer *request, const struct buffer *given)
{
    if (!append(request, GREETING, strlen(GREETING)))
        return false;
    for (char **each = environ; *each != NULL; each++)
        if (strncmp(*each, "CNI_", 4) == 0 && !append(request, *each, strlen(*each) + 1))
            return false;
    return append(request, "", 1) && append(request, given->at, given->length);
}

int main(void)
{
    const char *command = getenv("CNI_COMMAND");
    struct text version = { VERSION, strlen(VERSION) }, configuration, found, rest;
    struct buffer given = { 0 }, request = { 0 };
    struct sockaddr_un address = { .sun_family = AF_UNIX, .sun_path = SOCKET };
    long seconds = SECONDS, deadline;
    bool adds, patient;

    if (command == NULL)
        return failed(version, ENVIRONMENT, "CNI_COMMAND is not set: this is run by a container runtime", "");
    for (;;) {
        char chunk[16384];
        ssize_t got = read(STDIN_FILENO, chunk, sizeof chunk);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return failed(version, INPUT_OUTPUT, "the configuration cannot be read", strerror(errno));
        if (got == 0)
            break;
        if (given.length + (size_t)got > MAX_BYTES || !append(&given, chunk, (size_t)got))
            return failed(version, UNDECODABLE, "the configuration is longer than 4 MiB", "");
    }
    configuration = (struct text){ given.at, given.length };
    if (string_field(configuration, "cniVersion", &found) && found.length > 0 && found.length < 16 &&
        strspn(found.at, "0123456789.") >= found.length)
        version = found;
    if (strcmp(command, "VERSION") == 0) {
        char out[256];
        int length = snprintf(out, sizeof out, "{\"cniVersion\":\"%.*s\",\"supportedVersions\":" SUPPORTED "}\n",
                              (int)version.length, version.at);
        return print(out, (size_t)length) ? 0 : 1;
    }
    if (given.length == 0 || !within(configuration, '{', &rest))
        return failed(version, UNDECODABLE, "the configuration on standard input is no JSON object", "");
    adds = strcmp(command, "ADD") == 0;
    patient = adds || strcmp(command, "CHECK") == 0;
    if (is_exempt(configuration)) {
        if (!adds)
            return 0;
        if (!field(configuration, "prevResult", &found))
            return failed(version, CONFIGURATION, "there is no prevResult: quietwire-cni comes after other plugins", "");
        return print(found.at, found.length) ? 0 : 1;
    }
    if (string_field(configuration, "socket", &found)) {
        if (found.length == 0 || found.length >= sizeof address.sun_path)
            return failed(version, CONFIGURATION, "socket has no usable length", "");
        memset(address.sun_path, 0, sizeof address.sun_path);
        memcpy(address.sun_path, found.at, found.length);
    }
    if (field(configuration, "timeoutSeconds", &found)) {
        seconds = strtol(found.at, NULL, 10); /* it ends at what is no digit, and there is one: a brace at the least */
        if (seconds < 1 || seconds > MAX_SECONDS)
            return failed(version, CONFIGURATION, "timeoutSeconds must be 1 to 600", "");
    }
    if (!request_of(&request, &given))
        return failed(version, INPUT_OUTPUT, "there is no memory", "");
    deadline = now_ms() + (patient || seconds < QUICK_SECONDS ? seconds : QUICK_SECONDS) * 1000;
    for (;;) {
        struct buffer answer = { 0 };
        int status = ask(&address, &request, deadline, &answer) ? repeat(&answer) : -1;
        if (status >= 0)
            return status;
        if (!patient || now_ms() + AGAIN_MS >= deadline)
            break;
        poll(NULL, 0, AGAIN_MS);
        free(answer.at);
    }
    if (strcmp(command, "DEL") == 0 || strcmp(command, "GC") == 0)
        return 0;
    return failed(version, strcmp(command, "STATUS") == 0 ? NOT_AVAILABLE : TRY_AGAIN,
                  "the quietwire agent of this node does not answer, and without it no pod is let start that may have "
                  "to be meshed: is its pod running?",
                  strerror(errno));
}
