/*
 * QMP over a unix socket.
 *
 * Each message is one line of JSON. A command carries an id and its answer
 * repeats it, so an answer that comes after its command timed out is told
 * from the next one's and dropped. Whatever is no answer is an event and
 * goes into a queue of at most QMP_EVENTS_MAX.
 *
 * The socket is non-blocking; every wait is one poll() on it and on an eventfd
 * through which another thread cancels. The cancelled state sticks, so that a
 * cancel between two commands is not lost, and it is ignored while the owner
 * is deaf: whoever cleans up must be able to reach the VM.
 *
 * The peer is trusted no further than its size limits: QEMU runs the guest,
 * and a guest that broke out of it may write anything here.
 *
 * Concurrency: one thread, except qmp_cancel() and qmp_is_cancelled(), which
 * touch an atomic flag and the eventfd only.
 */
#include "capture/qmp.h"

#include "common/buf.h"
#include "common/clock.h"
#include "common/jsonx.h"
#include "common/log.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define QMP_READ_SIZE (64u << 10)

struct event {
    STAILQ_ENTRY(event) entry;
    json_t *json;
};

struct qmp {
    int fd;
    int cancel_fd;
    atomic_bool cancelled;
    bool deaf;
    bool gone;
    char who[128];
    int pid;
    unsigned version;
    uint64_t timeout_ns;
    uint64_t next_id;
    struct buf in;
    size_t scanned; /* bytes of `in` known to hold no newline */
    STAILQ_HEAD(, event) events;
    unsigned event_count;
};

static json_t *next_message(struct qmp *q, uint64_t deadline_ns,
                            const char *what, struct vn_err *err);
static int fill(struct qmp *q, uint64_t deadline_ns, const char *what,
                struct vn_err *err);
static json_t *cut_message(struct qmp *q, struct vn_err *err);
static void queue_event(struct qmp *q, json_t *json);
static int greet(struct qmp *q, struct vn_err *err);

static int connect_unix(const char *path, struct vn_err *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    vn_auto(close) int fd = -1;

    if (strlen(path) >= sizeof(address.sun_path))
        return vn_fail(err, VN_E_LIMIT, "socket path '%s' is too long", path);
    strcpy(address.sun_path, path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return vn_fail(err, errno, "create a socket");
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
        return vn_fail(err, errno, "connect to the monitor at '%s'", path);
    return vn_steal_fd(&fd);
}

struct qmp *qmp_connect(const char *path, const char *who, uint64_t timeout_ns,
                        struct vn_err *err)
{
    struct ucred cred = {.pid = 0};
    socklen_t size = sizeof(cred);
    vn_auto(qmp) struct qmp *q = vn_alloc(sizeof(*q));

    q->fd = -1;
    q->cancel_fd = -1;
    STAILQ_INIT(&q->events);
    buf_init(&q->in, QMP_MESSAGE_MAX + QMP_READ_SIZE);
    snprintf(q->who, sizeof(q->who), "%s", who);
    q->timeout_ns = timeout_ns;
    q->fd = connect_unix(path, err);
    if (q->fd < 0)
        return NULL;
    q->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (q->cancel_fd < 0)
        return vn_fail_ptr(err, errno, "create an eventfd");
    if (getsockopt(q->fd, SOL_SOCKET, SO_PEERCRED, &cred, &size) == 0)
        q->pid = cred.pid;
    if (greet(q, err) < 0) {
        vn_wrap(err, "monitor at '%s'", path);
        return NULL;
    }
    q->timeout_ns = QMP_TIMEOUT_NS;
    return vn_steal(&q);
}

void qmp_free(struct qmp *q)
{
    if (!q)
        return;
    qmp_forget_events(q);
    buf_done(&q->in);
    vn_auto_close(&q->fd);
    vn_auto_close(&q->cancel_fd);
    free(q);
}

int qmp_peer_pid(const struct qmp *q)
{
    return q->pid;
}

unsigned qmp_version(const struct qmp *q)
{
    return q->version;
}

bool qmp_is_gone(const struct qmp *q)
{
    return q->gone;
}

void qmp_set_timeout(struct qmp *q, uint64_t timeout_ns)
{
    q->timeout_ns = timeout_ns;
}

/* The connection cannot be used any more. */
static int fail_gone(struct qmp *q, struct vn_err *err)
{
    q->gone = true;
    if (q->pid)
        return vn_fail(err, VN_E_PEER, "%s (pid %d) is gone", q->who, q->pid);
    return vn_fail(err, VN_E_PEER, "%s is gone", q->who);
}

static int fail_cancelled(const struct qmp *q, const char *what,
                          struct vn_err *err)
{
    return vn_fail(err, ECANCELED, "%s: %s", q->who, what);
}

/* The greeting: {"QMP": {"version": {"qemu": {"major": ...}}, ...}}. */
static int greet(struct qmp *q, struct vn_err *err)
{
    vn_auto(json) json_t *greeting = NULL;
    int major = 0, minor = 0, micro = 0;

    greeting = next_message(q, clock_now_ns() + q->timeout_ns, "greeting", err);
    if (!greeting)
        return -1;
    if (json_unpack(greeting, "{s:{s:{s:{s:i,s:i,s:i}}}}", "QMP", "version",
                    "qemu", "major", &major, "minor", &minor, "micro",
                    &micro) < 0 ||
        major < 0 || major > 999 || minor < 0 || minor > 99 || micro < 0)
        return vn_fail(err, VN_E_FORMAT, "%s: the greeting is not QMP's",
                       q->who);
    q->version = (unsigned)major * 10000 + (unsigned)minor * 100 +
                 (unsigned)(micro > 99 ? 99 : micro);
    return qmp_command(q, "qmp_capabilities", NULL, NULL, err);
}

/* ---- commands ----------------------------------------------------------- */

/* Wait until the socket takes bytes. */
static int wait_writable(struct qmp *q, uint64_t deadline_ns,
                         const char *command, struct vn_err *err)
{
    struct pollfd fds[2] = {{.fd = q->fd, .events = POLLOUT},
                            {.fd = q->cancel_fd, .events = POLLIN}};
    uint64_t now = clock_now_ns();

    if (now >= deadline_ns)
        return vn_fail(err, VN_E_TIMEOUT, "%s does not take '%s'", q->who,
                       command);
    if (poll(fds, q->deaf ? 1 : 2,
             (int)((deadline_ns - now) / VN_MS % 3600000) + 1) < 0 &&
        errno != EINTR)
        return vn_fail(err, errno, "poll");
    if (!q->deaf && fds[1].revents)
        return fail_cancelled(q, command, err);
    return 0;
}

static int send_line(struct qmp *q, const char *line, size_t size, int fd,
                     const char *command, struct vn_err *err)
{
    uint64_t deadline_ns = clock_now_ns() + q->timeout_ns;
    char control[CMSG_SPACE(sizeof(int))] = {0};
    size_t done = 0;

    while (done < size) {
        /* sendmsg() does not write through the pointer. */
        union {
            const char *in;
            void *out;
        } base = {.in = line + done};
        struct iovec iov = {.iov_base = base.out, .iov_len = size - done};
        struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};
        ssize_t n;

        if (fd >= 0 && done == 0) {
            message.msg_control = control;
            message.msg_controllen = sizeof(control);
            CMSG_FIRSTHDR(&message)->cmsg_level = SOL_SOCKET;
            CMSG_FIRSTHDR(&message)->cmsg_type = SCM_RIGHTS;
            CMSG_FIRSTHDR(&message)->cmsg_len = CMSG_LEN(sizeof(int));
            memcpy(CMSG_DATA(CMSG_FIRSTHDR(&message)), &fd, sizeof(fd));
        }
        n = sendmsg(q->fd, &message, MSG_NOSIGNAL);
        if (n >= 0)
            done += (size_t)n;
        else if (errno == EAGAIN) {
            if (wait_writable(q, deadline_ns, command, err) < 0) {
                q->gone |= done > 0; /* half a line would garble the next */
                return -1;
            }
        } else if (errno != EINTR)
            return fail_gone(q, err);
    }
    return 0;
}

static int send_command(struct qmp *q, const char *command, json_t *args,
                        int fd, uint64_t *ret_id, struct vn_err *err)
{
    vn_auto(json) json_t *message =
        json_pack("{s:s,s:I}", "execute", command, "id",
                  (json_int_t)(*ret_id = ++q->next_id));
    vn_auto(free) char *text = NULL;
    vn_auto(free) char *line = NULL;

    if (args)
        json_object_set_new(message, "arguments", args);
    if (q->gone)
        return fail_gone(q, err);
    if (!q->deaf && atomic_load(&q->cancelled))
        return fail_cancelled(q, command, err);
    text = jsonx_text(message);
    line = vn_format("%s\n", text);
    return send_line(q, line, strlen(line), fd, command, err);
}

/* The answer to command `id`; events that come before it are queued. */
static int await_answer(struct qmp *q, const char *command, uint64_t id,
                        json_t **ret, struct vn_err *err)
{
    uint64_t deadline_ns = clock_now_ns() + q->timeout_ns;

    for (;;) {
        vn_auto(json) json_t *message =
            next_message(q, deadline_ns, command, err);
        json_t *value;

        if (!message)
            return -1;
        if (json_object_get(message, "event")) {
            queue_event(q, vn_steal(&message));
            continue;
        }
        value = json_object_get(message, "id");
        /* QEMU leaves out the id when it could not read the command. */
        if (value && json_integer_value(value) != (json_int_t)id)
            continue;
        value = json_object_get(message, "error");
        if (value)
            return vn_fail(err, VN_E_PEER, "%s: %s: %s", q->who, command,
                           jsonx_string_or(value, "desc", "unknown error"));
        value = json_object_get(message, "return");
        if (!value)
            return vn_fail(err, VN_E_FORMAT, "%s: %s: no answer in the answer",
                           q->who, command);
        if (ret)
            *ret = json_incref(value);
        return 0;
    }
}

int qmp_command(struct qmp *q, const char *command, json_t *args, json_t **ret,
                struct vn_err *err)
{
    uint64_t id;

    if (send_command(q, command, args, -1, &id, err) < 0)
        return -1;
    return await_answer(q, command, id, ret, err);
}

int qmp_command_fd(struct qmp *q, const char *command, json_t *args, int fd,
                   struct vn_err *err)
{
    uint64_t id;

    assert(fd >= 0);
    if (send_command(q, command, args, fd, &id, err) < 0)
        return -1;
    return await_answer(q, command, id, NULL, err);
}

/* ---- events ------------------------------------------------------------- */

bool qmp_want_name(const json_t *event, const void *name)
{
    return strcmp(qmp_event_name(event), name) == 0;
}

json_t *qmp_wait_event(struct qmp *q, qmp_want_fn *want, const void *context,
                       const char *what, struct vn_err *err)
{
    uint64_t deadline_ns = clock_now_ns() + q->timeout_ns;
    json_t *event = qmp_take_event(q, want, context);

    while (!event) {
        json_t *message = next_message(q, deadline_ns, what, err);

        if (!message)
            return NULL;
        if (!json_object_get(message, "event")) {
            json_decref(message); /* an answer that came too late */
            continue;
        }
        queue_event(q, message);
        event = qmp_take_event(q, want, context);
    }
    return event;
}

int qmp_pump(struct qmp *q, struct vn_err *err)
{
    for (;;) {
        struct vn_err none = VN_ERR_INIT;
        json_t *message = next_message(q, 0, "events", &none);

        if (!message) {
            if (none.code == VN_E_TIMEOUT)
                return 0;
            *err = none;
            return -1;
        }
        if (json_object_get(message, "event"))
            queue_event(q, message);
        else
            json_decref(message);
    }
}

json_t *qmp_take_event(struct qmp *q, qmp_want_fn *want, const void *context)
{
    struct event *event;

    STAILQ_FOREACH (event, &q->events, entry) {
        json_t *json = event->json;

        if (!want(json, context))
            continue;
        STAILQ_REMOVE(&q->events, event, event, entry);
        q->event_count--;
        free(event);
        return json;
    }
    return NULL;
}

static void drop_first_event(struct qmp *q)
{
    struct event *event = STAILQ_FIRST(&q->events);

    STAILQ_REMOVE_HEAD(&q->events, entry);
    q->event_count--;
    json_decref(event->json);
    free(event);
}

void qmp_forget_events(struct qmp *q)
{
    while (!STAILQ_EMPTY(&q->events))
        drop_first_event(q);
}

static void queue_event(struct qmp *q, json_t *json)
{
    struct event *event = vn_alloc(sizeof(*event));

    if (q->event_count >= QMP_EVENTS_MAX)
        drop_first_event(q);
    event->json = json;
    STAILQ_INSERT_TAIL(&q->events, event, entry);
    q->event_count++;
    log_debug("qmp: event vm=\"%s\" name=%s", q->who, qmp_event_name(json));
}

const char *qmp_event_name(const json_t *event)
{
    return jsonx_string_or(event, "event", "");
}

const char *qmp_event_string(const json_t *event, const char *key)
{
    return jsonx_string_or(json_object_get(event, "data"), key, "");
}

uint64_t qmp_event_wall_ns(const json_t *event)
{
    const json_t *stamp = json_object_get(event, "timestamp");
    uint64_t seconds = jsonx_u64_or(stamp, "seconds", 0);

    if (seconds > UINT64_MAX / VN_SEC - 1)
        return 0;
    return seconds * VN_SEC +
           jsonx_u64_or(stamp, "microseconds", 0) % 1000000 * 1000;
}

/* ---- cancelling --------------------------------------------------------- */

void qmp_cancel(struct qmp *q)
{
    uint64_t one = 1;

    atomic_store(&q->cancelled, true);
    if (write(q->cancel_fd, &one, sizeof(one)) < 0)
        assert(errno == EAGAIN); /* it is raised already */
}

bool qmp_is_cancelled(const struct qmp *q)
{
    return atomic_load(&q->cancelled);
}

void qmp_uncancel(struct qmp *q)
{
    uint64_t count;

    if (read(q->cancel_fd, &count, sizeof(count)) < 0)
        assert(errno == EAGAIN);
    atomic_store(&q->cancelled, false);
}

void qmp_set_deaf(struct qmp *q, bool deaf)
{
    q->deaf = deaf;
}

/* ---- receiving ---------------------------------------------------------- */

/* The next message, whatever it is. deadline_ns 0: do not wait. */
static json_t *next_message(struct qmp *q, uint64_t deadline_ns,
                            const char *what, struct vn_err *err)
{
    for (;;) {
        struct vn_err bad = VN_ERR_INIT;
        json_t *message = cut_message(q, &bad);

        if (message)
            return message;
        if (bad.code) {
            q->gone = true; /* in no state to be understood again */
            *err = bad;
            return NULL;
        }
        if (fill(q, deadline_ns, what, err) < 0)
            return NULL;
    }
}

/* Take one line out of the buffer; NULL without an error: none complete. */
static json_t *cut_message(struct qmp *q, struct vn_err *err)
{
    uint8_t *end = NULL;
    json_t *message;
    size_t size;

    if (q->in.size > q->scanned)
        end = memchr(q->in.data + q->scanned, '\n', q->in.size - q->scanned);
    if (!end) {
        q->scanned = q->in.size;
        if (q->in.size > QMP_MESSAGE_MAX)
            (void)vn_fail(err, VN_E_LIMIT,
                          "%s: a message is longer than %u bytes", q->who,
                          QMP_MESSAGE_MAX);
        return NULL;
    }
    size = (size_t)(end - q->in.data);
    message = jsonx_parse((const char *)q->in.data, size, q->who, err);
    buf_consume(&q->in, size + 1);
    q->scanned = 0;
    if (message && !json_is_object(message)) {
        json_decref(message);
        return vn_fail_ptr(err, VN_E_FORMAT, "%s: a message is no object",
                           q->who);
    }
    return message;
}

/* Wait for bytes and append them. */
static int fill(struct qmp *q, uint64_t deadline_ns, const char *what,
                struct vn_err *err)
{
    uint8_t *place;
    ssize_t n;

    if (q->gone)
        return fail_gone(q, err);
    for (;;) {
        struct pollfd fds[2] = {{.fd = q->fd, .events = POLLIN},
                                {.fd = q->cancel_fd, .events = POLLIN}};
        uint64_t now = clock_now_ns();
        uint64_t wait_ms =
            now >= deadline_ns ? 0 : (deadline_ns - now) / VN_MS + 1;
        int ready = poll(fds, q->deaf ? 1 : 2,
                         (int)(wait_ms > 3600000 ? 3600000 : wait_ms));

        if (ready < 0 && errno != EINTR)
            return vn_fail(err, errno, "poll");
        if (ready > 0 && !q->deaf && fds[1].revents)
            return fail_cancelled(q, what, err);
        if (ready > 0)
            break;
        if (clock_now_ns() >= deadline_ns)
            return vn_fail(err, VN_E_TIMEOUT, "%s: no answer to %s", q->who,
                           what);
    }
    place = buf_reserve(&q->in, QMP_READ_SIZE);
    if (!place)
        return buf_check(&q->in, q->who, err);
    n = recv(q->fd, place, QMP_READ_SIZE, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (n <= 0)
        return fail_gone(q, err);
    q->in.size += (size_t)n;
    return 0;
}
