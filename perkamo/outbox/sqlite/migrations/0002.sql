-- retry_at: seconds since the machine was started; NULL while events pass
ALTER TABLE spaces ADD COLUMN retry_at REAL
