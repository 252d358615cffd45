-- Dictation through sttd: what is said appears behind the cursor while it is said, and is inserted once it is final.
--
-- `sttctl listen --json` records and prints one event a line; the daemon's state comes over its own control socket,
-- which speaks the RPC protocol that Neovim speaks.

local M = {}

local namespace = vim.api.nvim_create_namespace("sttd")
local dictation = nil -- { job, buffer, mark } while it runs

local function listen_command()
  return vim.g.sttd_listen_command or { "sttctl", "listen", "--json" }
end

-- The mark moves with the text round it: typing elsewhere while somebody speaks is fine.
local function position()
  local mark = vim.api.nvim_buf_get_extmark_by_id(dictation.buffer, namespace, dictation.mark, {})
  return mark[1], mark[2]
end

local function show(stable, tail)
  local row, column = position()
  vim.api.nvim_buf_set_extmark(dictation.buffer, namespace, row, column, {
    id = dictation.mark,
    virt_text = { { stable, "Normal" }, { tail, "Comment" } },
    virt_text_pos = "eol",
    right_gravity = true,
  })
end

local function insert(text)
  local row, column = position()
  local before = vim.api.nvim_buf_get_lines(dictation.buffer, row, row + 1, true)[1]:sub(1, column)
  local space = (before == "" or before:match("%s$")) and "" or " "
  vim.api.nvim_buf_set_text(dictation.buffer, row, column, row, column, { space .. text })
  show("", "")
end

local function on_event(line)
  local event = vim.json.decode(line)
  if event.type == "interim" then
    -- stable_chars counts code points, as Vim's strcharpart does
    local stable = vim.fn.strcharpart(event.text, 0, event.stable_chars)
    show(stable, event.text:sub(#stable + 1))
  elseif event.type == "final" and event.text ~= "" then
    insert(event.text)
  elseif event.type == "error" or event.type == "warning" then
    vim.notify("sttd: " .. event.message, vim.log.levels.WARN)
  end
end

function M.start()
  local row, column = unpack(vim.api.nvim_win_get_cursor(0))
  if column > 0 then
    column = math.min(column + 1, #vim.api.nvim_get_current_line()) -- behind the character under the cursor
  end
  local buffer = vim.api.nvim_get_current_buf()
  local mark = vim.api.nvim_buf_set_extmark(buffer, namespace, row - 1, column, { right_gravity = true })
  local rest, complaint = "", {}
  local job = vim.fn.jobstart(listen_command(), {
    on_stdout = function(_, lines)
      lines[1] = rest .. lines[1] -- the last item of a chunk is the beginning of the next line
      rest = table.remove(lines)
      vim.tbl_map(on_event, lines)
    end,
    on_stderr = function(_, lines)
      vim.list_extend(complaint, lines)
    end,
    on_exit = function(_, status)
      vim.api.nvim_buf_clear_namespace(buffer, namespace, 0, -1)
      dictation = nil
      if status ~= 0 then
        vim.notify(table.concat(complaint, "\n"), vim.log.levels.ERROR)
      end
    end,
  })
  if job <= 0 then
    vim.notify("sttd: cannot run " .. listen_command()[1], vim.log.levels.ERROR)
    return
  end
  dictation = { job = job, buffer = buffer, mark = mark }
end

function M.stop()
  vim.fn.jobstop(dictation.job) -- SIGTERM: sttctl still prints the text of what was being said
end

function M.toggle()
  if dictation then
    M.stop()
  else
    M.start()
  end
end

-- The control socket, where every client looks for it.
local function control_socket()
  if vim.env.STTD_SOCKET then
    return vim.env.STTD_SOCKET
  end
  local mine = (vim.env.XDG_RUNTIME_DIR or "") .. "/sttd/control.sock"
  return vim.loop.fs_stat(mine) and mine or "/run/sttd/control.sock"
end

function M.status()
  local connected, channel = pcall(vim.fn.sockconnect, "pipe", control_socket(), { rpc = true })
  if not connected then
    vim.notify("sttd: no daemon; start one with `sttd serve`", vim.log.levels.ERROR)
    return
  end
  local status = vim.rpcrequest(channel, "status")
  vim.fn.chanclose(channel)
  local message = string.format(
    "sttd %s, %s: %d sessions, %d models loaded",
    status.server.version,
    status.server.state,
    status.sessions.active,
    status.models.loaded
  )
  print(message)
end

return M
